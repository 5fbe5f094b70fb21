"""Tables of the papers: what each row runs, what was published, and one engine that runs them."""
