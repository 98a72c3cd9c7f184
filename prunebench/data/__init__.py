"""Models and data sets before they are loaded: hub files, families, configs, texts, fingerprints.

Tensors do not belong here (``models``), nor do case files (``cases``). May import ``system`` and
the data modules at the top. No torch.
"""
