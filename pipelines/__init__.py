"""What needs several rooms: the demo, runs that gin configures, generation, evaluation."""
