package seedpool

import "time"

// Foresee says how a container that is about to be created may be woken, as far as its image says: from a ready spare, or as a clone of a template that stands.
func (p *Pool) Foresee(namespace, id string) (f Foreseen) {
	upperdir, chain := p.rootfs.Container(namespace, id)
	if chain == "" {
		return f
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.seeds {
		info := s.meta.Info
		if info.Namespace != namespace || info.Phase != SeedReady || info.Key.Parts[PartImage] != chain {
			continue
		}
		if len(s.ready) > 0 {
			return Foreseen{RungThaw, upperdir}
		}
		if p.config.Fork.Enabled && s.fork.stands && s.fork.obstacle(time.Now()) == "" {
			f = Foreseen{RungFork, upperdir}
		}
	}
	return f
}
