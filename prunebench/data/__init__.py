"""What a model or data set is before it is loaded: hub files, configs, texts, fingerprints.

Tensors do not belong here (``models``), nor do case files (``cases``). May import ``system`` and
the data modules at the top. No torch.
"""
