"""Assembly: backbone + head = transfer model, with weights found, verified and accounted for."""
