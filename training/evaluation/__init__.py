"""From held-out predictions to a calibration, figures and a model card."""
