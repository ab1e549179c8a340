"""The crash loop: a broker is killed and started again under load, and held to what it acknowledged."""
