"""The simulated thorax: anatomy and disease as parametric solids, projected to a film and written as DICOM."""
