"""LTX-2 as stages: the rules of a request, the settings of a pipeline, and the stages that make a video."""
