"""The strategies, one file each; :mod:`zoo_peft.specs` names their factories."""
