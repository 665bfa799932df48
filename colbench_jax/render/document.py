"""What a browser is given in place of a page as it was written: a stylesheet of its own, and no address to ask.

Images from the network become drawings that depend on their address alone; scripts are dropped (the browser would not
run them either); a policy in front of everything forbids whatever is not in the page itself. Nothing moves.
"""

from __future__ import annotations

import base64
import hashlib
import html as entities
import re

from colbench_jax.render.dom import without_scripts
from colbench_jax.render.palette import COLOURS
from colbench_jax.render.stylesheet import compiled

LONGEST = 1_000_000  # characters of a page
STILL = '*,::before,::after{animation:none!important;transition:none!important;caret-color:transparent!important}'
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; font-src data:; form-action 'none'"

# A tag may hold < and > in quotes. No part of the pattern gives back what it took, so that the work is proportional to
# the page, whatever it is made of.
_TAG = re.compile(r'<(img|source|input|video|meta|base)\b(?:"[^"]*"|\'[^\']*\'|[^<>"\'])*+>', re.I)
_ADDRESS = re.compile(r'\s(src|srcset|poster)\s*=\s*("[^"]*"|\'[^\']*\'|[^\s>"\']+)', re.I)
_URL = re.compile(r'\burl\(\s*(["\']?)((?:https?:)?//[^"\')\s]+)\1\s*\)', re.I)


def document(html: str) -> str:
    """The page to render, at most LONGEST characters of it."""
    html = html[:LONGEST].encode(errors='replace').decode()  # half a character cannot be sent
    html = _TAG.sub(_local, without_scripts(html))
    html = _URL.sub(lambda match: f'url("{placeholder(match[2])}")', html)
    head = f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    # A parser folds the page's own <html>, <head> and <body> into those that have begun here.
    return f'<!DOCTYPE html>{head}<style>{compiled(html)}{STILL}</style>{html}'


def _local(tag: re.Match) -> str:
    """A tag that names no address: placeholders for images, nothing for what would lead elsewhere."""
    kind = tag[1].lower()
    if kind == 'base' or (kind == 'meta' and 'http-equiv' in tag[0].lower()):
        return ''

    def local(match: re.Match) -> str:
        name, address = match[1].lower(), entities.unescape(match[2].strip('"\''))
        if name == 'srcset' or (name == 'src' and kind == 'video'):
            return ''
        return match[0] if address.startswith('data:') else f' {name}="{placeholder(address)}"'

    return _ADDRESS.sub(local, tag[0])


def placeholder(address: str) -> str:
    """A drawing for an image's address, as a data URI: hills and a sun, coloured and placed by a hash of the address.

    Its size is the one that the address names (`/400/300`, `600x400`), else 640 by 400 px.
    """
    size = re.match(r'.*(?<!\d)(\d{2,4})[x/](\d{2,4})(?!\d)', address)
    width, height = (min(2000, int(part)) for part in size.groups()) if size else (640, 400)
    drawn = hashlib.sha256(address.encode()).digest()
    hues = ('sky', 'teal', 'amber', 'rose', 'indigo', 'emerald', 'orange', 'slate')
    sky, far, near = (hues[byte % len(hues)] for byte in drawn[:3])
    tops = [40 + byte % 35 for byte in drawn[3:9]]  # per cent of the height, of the hills
    far_line = f'M0 100V{tops[0]}C30 {tops[1]} 60 {tops[2]} 100 {tops[3]}V100Z'
    near_line = f'M0 100V{tops[4] + 15}C40 {tops[5] + 20} 70 {tops[0] + 15} 100 {tops[2] + 20}V100Z'
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 100 100" '
        f'preserveAspectRatio="none"><rect width="100" height="100" fill="{COLOURS[sky + "-200"]}"/>'
        f'<ellipse cx="{15 + drawn[9] % 70}" cy="{15 + drawn[10] % 20}" rx="6" ry="9" fill="{COLOURS["amber-100"]}"/>'
        f'<path d="{far_line}" fill="{COLOURS[far + "-400"]}"/><path d="{near_line}" fill="{COLOURS[near + "-700"]}"/>'
        '</svg>'
    )
    return 'data:image/svg+xml;base64,' + base64.b64encode(svg.encode()).decode()
