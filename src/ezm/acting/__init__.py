"""Acting with an agent: the actor of a training, evaluations, diagnostics and the inspector of a search."""
