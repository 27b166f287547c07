"""The network as training needs it: pretrained weights, adapters, what it costs."""
