// Package snapshotter keeps the root file systems: containerd's overlay snapshotter with one layer more, the seed's, between image and container.
//
// It has two faces. To containerd it is a snapshots.Snapshotter in which nothing of ours is seen: containerd's garbage collector removes every
// snapshot that it walks over and does not know, so Walk leaves our own rows out and the other methods do not find them. To the pool it is a
// seedpool.Rootfs: image layers by chain id, seeds' layers, spares' uppers, and Adopt, which hands a spare's upper to a container.
//
// # On disk
//
//	<root>/metadata.db        containerd's snapshot rows (core/snapshots/storage), ours among them
//	<root>/snapshots/<id>/    fs: the upper, or the layer once committed; work: overlayfs's own, of active snapshots only
//	<root>/snapshots/old-*/   what New found without a row; goes with the next Cleanup
//
// Rows by key:
//
//	<namespace>/<n>/<name>    containerd's. The last part of a layer's name is its chain id
//	sprout/bake/<seed>        active, over the image: the container that is being baked writes here
//	sprout/seed/<seed>        committed, over the image: the seed's layer, what booting the application changed on disk
//	sprout/spare/<instance>   active, over the seed's layer: the upper of a frozen instance
//
// A containerd namespace called sprout does not clash: its keys have a number where ours have bake, seed or spare.
//
// The label containerd.io/snapshot/sprout.seed=<seed> on a row of containerd's says: directly below this upper lies that seed's layer, and below
// that what the seed was baked on. Mounts, View and Prepare follow it, for the row itself and for all that is made on top of it, and Commit hands
// it on; the row's parent stays the image. Only this package sets it: what a client sends under that name is dropped.
// The label sprout.retired on a seed's row says that the layer goes with its last user.
//
// # Life of a container's snapshot
//
//	Prepare (containerd) ── cold ──────────────────────────────▶ runs on upper over image
//	        ├── Adopt: has a spare's fs and work, label ───────▶ runs on upper over seed over image, in the mount the spare already had
//	        └── Over: own fs, label ───────────────────────────▶ the same, in a new mount
//	Renew undoes Adopt and Over before anything ran, Plain takes only the label off. Remove (containerd) frees it, wherever its upper came from.
//
// # Life of a seed's layer
//
//	PrepareBake → CommitSeed (or AbortBake) → PrepareSpare, Adopt, Over… → RemoveSeed: gone at once, or retired and gone with its last user
//
// The image layers below a seed cannot be removed while it exists: containerd gets ErrFailedPrecondition, logs it and asks again at a later
// collection. OnBlocked tells the pool.
//
// # Crash order
//
// The metadata transaction decides; each of these may be cut by kill -9 at any point, and New (which is the recovery) then has:
//
//	CommitSeed    files synced → row renamed to sprout/seed/. A bake row at New is a bake that was cut: dropped.
//	Adopt         in one transaction: row of the spare removed, label set, fs renamed onto the container's empty fs, then work onto work, commit.
//	              Cut before commit: nobody was told of success. A spare whose fs is gone has been taken and is dropped; the container stays over
//	              the image alone, with the spare's upper as its own: what a cold start on it sees is the image. Cut before fs moved: nothing happened.
//	Over, Plain   one transaction. The upper's own mode and owner are changed before.
//	Renew         label off → upper emptied. Cut between: an upper that is not pristine, over the image.
//	removals      row → directory. A directory without row is set aside, never reused under its number.
//
// Adopt syncs no directory: on ext4 and xfs an fsync of a file in the upper puts the rename, which is older, on disk too, and after a power cut
// nothing runs on the mount any more.
//
// # Locks
//
// A write transaction of the metadata database is the only lock that is held over anything slow. index.mu is taken inside or outside of one, and
// nothing is taken while it is held.
//
// # Kernel
//
// Overlayfs holds the directories of upper and work, not their names, so both may be renamed under a live mount as long as nothing inside is
// touched from outside and they stay on one file system (Documentation/filesystems/overlayfs.rst forbids changes to the trees, not to where they hang).
package snapshotter
