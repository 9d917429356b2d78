"""The SSD tier: blocks of file versions on a local disk, kept across restarts.

    CACHE_DIR/<name of the mount>/
        owner           JSON: version, url, pid; locked with flock by the living owner
        index.db        SQLite: which blocks of which version are there, and their checksums
        data/N          a sparse file with the blocks of one version at their own offsets
        metadata/       listings and attribute objects

    directory.py   that directory: owned, locked, brought in step with its index after a crash
    index.py       the index
    data.py        one data file: past the page cache for blocks, through it for small reads
    known.py       what is in memory of one version: a checksum for each block that is there
    catalogue.py   what is there, of all versions: the budget, eviction, hand-over
    health.py      whether the disk is to be used
    tier.py        reads and fills
    metadata.py    small metadata, by key and expiry

A block counts from the moment its checksum is in the index, and its bytes are written before. A
checksum is compared on the first use after a restart, and whenever whole blocks are read: what does
not match is dropped and fetched again. So neither a kill in the middle of a fill nor a disk that
has lost or changed bytes can make a wrong byte.
"""
