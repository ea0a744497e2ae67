"""Problems, solvers and certificates shared by all surrogate models."""
