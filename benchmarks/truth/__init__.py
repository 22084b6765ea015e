"""Are the words true? Worlds with known truth, measures, rivals, and the table of all: `make bench-truth`."""
