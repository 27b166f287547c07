"""Which crops there are, how they are split, and what training does to their pixels."""
