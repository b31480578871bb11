"""HumanoidBench: whole-body tasks of a Unitree H1 with and without hands (Sferrazza et al., 2024)."""
