package seedpool

// Foresee is the upper directory of a container that is about to be created if it may find a ready spare, made from its image: its shim need not wait for the request
// to claim one. Empty: most likely it will not be thawed.
func (p *Pool) Foresee(namespace, id string) (upperdir string) {
	upperdir, chain := p.rootfs.Container(namespace, id)
	if chain == "" {
		return ""
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.seeds {
		info := s.meta.Info
		if info.Namespace == namespace && info.Phase == seedReady && info.Key.Parts[PartImage] == chain && len(s.ready) > 0 {
			return upperdir
		}
	}
	return ""
}
