"""What differs between two models: parts, recipe, data, metrics (:mod:`.documents`), tensors (:mod:`.tensors`)."""
