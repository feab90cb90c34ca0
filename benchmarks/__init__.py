"""What Woodshed claims about speed, as ratios against a reference timed in the same run."""
