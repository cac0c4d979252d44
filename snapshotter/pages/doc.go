// Package pages keeps the memory of images on disk: a store of pages of 4096 bytes, each once, whatever number of images have it.
//
// An image (ID) is a list of files, a file a list of pages. A page is known by its Hash, which is over the tenant's name, too: images of one tenant share
// pages, those of two never do. A page of zeros is not stored. Pages are compressed some at a time, as a frame; frames lie in packs, which never change.
//
// # Life of a page
//
//	Put: new ──▶ in a frame of a new pack
//	     known, and its frame is whole ──▶ one reference more
//	     known and damaged ──▶ stored again, for the old images too
//	Remove: one reference less; none left ──▶ no row. A pack without rows goes at once
//	Collect: the pages of packs that are mostly without rows ──▶ written into a new pack; the old one goes
//
// # On disk
//
//	<dir>/index.db                    bbolt, below
//	<dir>/packs/<n>.pack              head, frames (pack.go, frame.go)
//	<dir>/manifests/<n>.manifest      the list of files and hashes of one image (manifest.go)
//	<dir>/{packs,manifests}/<n>.*.new being written
//
// Numbers are 16 hexadecimal digits. The index:
//
//	index.db
//	├── meta    version: "1"; recount: there, when references may be too high (an image was removed whose manifest was damaged); Collect counts them again
//	├── images  <tenant> 0 <name>: manifest's number u64, its bytes u64, pages u64, its sha256
//	├── pages   <hash>: pack u64, offset u64, length u32, pages of the frame u8, references u32 (images that have it, not how often they do)
//	└── packs   <n>: bytes u64, pages ever u64, pages that have a row here u64
//
// All numbers are big-endian.
//
// # Crash order
//
// A pack or manifest is written under a .new name, synced and renamed, and its directory synced, before the one transaction that makes it count. On removal the
// transaction comes first. So what has no row is nobody's, and Open, which is the recovery, removes it. No transaction: nothing was acknowledged.
//
// # Damage
//
// A frame has a checksum over all of it and the hashes of its pages: a bit that flipped in it, or in a row that leads to it, is found before a byte is given
// out. So is one in a manifest, whose sum is in its row. The error is a *DamageError, which is errdefs.ErrDataLoss. Put the image again, after Remove: that
// stores damaged pages anew. Verify looks before somebody else has to. An index that bbolt cannot read, or that is not there, is made again from packs and
// manifests; the damaged one stays as index.db.damaged.
//
// # Locks
//
//	Store.writing       one Put, Remove, Collect or VerifyAll at a time
//	  Store.packs       read-held from looking up pages until their packs are open, held while rows that lead to a pack and then the pack are removed
//	    bbolt's own     transactions
package pages
