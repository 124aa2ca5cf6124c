"""ConceptBench: every method forgets every concept, in a resumable run whose cells are kept in SQLite."""
