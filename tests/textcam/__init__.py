"""Tests of textcam."""
