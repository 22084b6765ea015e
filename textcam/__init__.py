"""The method (channel directions, words, groups, explanations, audit) and the questions asked of a store."""

from textcam.own_names import claim

claim("store")
