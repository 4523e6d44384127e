"""The strategies, one file each; :mod:`zoo_basics.specs` names their factories."""
