"""The exercises of each chapter, one module a chapter."""
