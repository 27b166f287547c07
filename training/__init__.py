"""Everything that makes a weights folder; it imports `model`, never the other way round."""
