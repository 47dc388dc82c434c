"""Anomaly detection on arrays: the scores, how well they detect, and pseudo-anomalies. Higher is more anomalous."""
