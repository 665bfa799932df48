"""From HTML to a picture: a stylesheet of utility classes, placeholder images, and a real browser without a network."""
