"""dermeval: judges encoders and puts them to use, by patient."""
