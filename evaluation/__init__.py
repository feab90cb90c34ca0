"""What a run is worth: small pure metrics by family, the anchors beside them, and the report."""
