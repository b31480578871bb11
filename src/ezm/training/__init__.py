"""Training: the loop, the learner's pipeline and the memory that a run needs."""
