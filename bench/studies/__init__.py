"""Single measurements for statements in the docs."""
