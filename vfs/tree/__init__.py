"""Names, inodes, directories, attributes."""
