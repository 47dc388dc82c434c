"""Packed models: a selected trial or an ensemble in a folder of JSON and safetensors, which scores rows anywhere."""
