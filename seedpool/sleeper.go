package seedpool

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/sproutrun/sprout/seedpool/restore"
)

// linkBase links the memory of an instance's seed into the directory of its image: what the two have in common is not kept twice, and stays when the seed is removed.
// Without it the image is whole, which is no reason not to sleep.
func (p *Pool) linkBase(ctx context.Context, i *instance, dir string) (base string) {
	base = filepath.Join(dir, "base")
	p.mu.Lock()
	s := p.seeds[i.seed]
	p.mu.Unlock()
	if s == nil {
		return ""
	}
	s.load.Lock()
	defer s.load.Unlock()
	err := p.check(ctx, s)
	images := ""
	if err == nil {
		images, err = p.images(ctx, s)
	}
	if err == nil {
		err = p.relink(s, func() error { return errors.Join(os.Mkdir(base, 0o700), restore.Link(images, base)) })
	}
	if err == nil {
		return base
	}
	if err := os.RemoveAll(base); err != nil {
		log.G(ctx).WithError(err).WithField("id", i.id).Warn("remove links to memory of seed")
	}
	log.G(ctx).WithError(err).WithFields(log.Fields{"id": i.id, "seed": i.seed}).Warn("keep whole image of sleeping instance")
	return ""
}

// relink makes or removes links to a seed's files, which changes what stat says of them: they are as right as they were before. The caller holds s.load.
func (p *Pool) relink(s *seed, change func() error) error {
	known, err := p.store.checked(s.id)
	if err != nil {
		return err
	}
	before, err := s.dir.identity()
	if err != nil || before != known {
		return change()
	}
	if err := change(); err != nil {
		return err
	}
	after, err := s.dir.identity()
	if err != nil || after == before {
		return err
	}
	return p.store.setChecked(s.id, after)
}

// removeImage removes the image of an instance, if there is one.
func (p *Pool) removeImage(i *instance) error {
	dir := p.paths.SleepDir(i.id)
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	remove := func() error { return os.RemoveAll(dir) }
	p.mu.Lock()
	s := p.seeds[i.seed]
	p.mu.Unlock()
	if s == nil {
		return remove()
	}
	s.load.Lock()
	defer s.load.Unlock()
	return p.relink(s, remove)
}

// releaseKeeper lets the keeper that was started for what sleeps of a removed seed end with its last instance.
func (p *Pool) releaseKeeper(ctx context.Context, seedID string) error {
	if p.seedKnown(seedID) || p.isYoung(seedID) {
		return nil
	}
	return p.keepers.retire(ctx, seedID)
}

// sealSleeper writes the sums of an image beside it, and sees to it that all of it is on disk. Those of the seed's files were right when they were linked.
func (p *Pool) sealSleeper(i *instance) error {
	dir := seedDir(p.paths.SleepDir(i.id))
	known := make(map[string]string)
	if sums, err := seedDir(p.paths.SeedDir(i.seed)).readSums(); err == nil {
		for name, sum := range sums {
			known[inParent+strings.TrimPrefix(name, "images/")] = sum
		}
	}
	return errors.Join(dir.writeSums(known), dir.sync())
}

// checkSleeper compares an image with its sums: its memory, or all the rest of it. What is the seed's, and right there, is not read again.
func (p *Pool) checkSleeper(i *instance, memory bool) error {
	dir := seedDir(p.paths.SleepDir(i.id))
	seeds := func(string) bool { return false }
	if memory {
		seeds = p.sameAsSeeds(i)
	}
	_, _, problems, err := dir.compare(false, func(name string) bool {
		return isMemory(name) != memory || seeds(name)
	})
	if err != nil {
		return fmt.Errorf("check image of instance %s: %w", i.id, err)
	}
	if len(problems) > 0 {
		return refuse(ReasonImageDamaged, fail(errdefs.ErrDataLoss, "image of instance %s: %s", i.id, strings.Join(problems, "; ")))
	}
	return nil
}

// isMemory says whether a file of an image is a task's memory.
func isMemory(name string) bool { return strings.HasPrefix(filepath.Base(name), "pages-") }

// sameAsSeeds says of a file of an image whether it is one of its seed's, all of which were right the last time that they were read and were not touched since.
func (p *Pool) sameAsSeeds(i *instance) func(name string) bool {
	p.mu.Lock()
	s := p.seeds[i.seed]
	p.mu.Unlock()
	if s == nil {
		return func(string) bool { return false }
	}
	known, err := p.store.checked(s.id)
	identity, idErr := s.dir.identity()
	right := err == nil && idErr == nil && known == identity
	return func(name string) bool {
		file, ok := strings.CutPrefix(name, inParent)
		if !ok || !right {
			return false
		}
		ours, err := os.Lstat(filepath.Join(p.paths.SleepDir(i.id), name))
		theirs, seedErr := os.Lstat(filepath.Join(p.imagesNow(s), file))
		return err == nil && seedErr == nil && os.SameFile(ours, theirs)
	}
}

// imagesNow is where a seed's images are with their memory, if they are there.
func (p *Pool) imagesNow(s *seed) string {
	if s.paged {
		return p.hotImages(s.id)
	}
	return p.paths.ImagesDir(s.id)
}
