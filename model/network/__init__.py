"""From crops to a logit and from a logit to P(atypical); the weights folder that says how."""
