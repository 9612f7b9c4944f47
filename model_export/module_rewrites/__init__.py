"""Changes to a torch module before it is traced; each works on a copy and says what it changed."""
