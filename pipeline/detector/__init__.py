"""A chosen model, or several, packed in a folder of JSON and safetensors: what scores rows after the study."""

from pipeline.detector.detector import Detector
from pipeline.detector.packing import Baseline, baseline_of, pack

__all__ = ["Baseline", "Detector", "baseline_of", "pack"]
