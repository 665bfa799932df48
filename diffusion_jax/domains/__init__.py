"""DNA, molecules, proteins, images: data, model, rewards, and what is reported of designs."""
