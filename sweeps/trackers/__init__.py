"""Trackers: a sweep shown in W&B, Trackio, TensorBoard, MLflow or a class of one's own, from a process of their own."""
