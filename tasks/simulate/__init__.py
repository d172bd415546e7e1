"""Stage `simulate`: an archive of chest radiographs that nobody has."""
