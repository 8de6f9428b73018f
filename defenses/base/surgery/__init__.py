"""Operations on the layers of an existing network."""
