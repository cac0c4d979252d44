package seedpool

import (
	"slices"

	"google.golang.org/protobuf/proto"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// change moves an instance to another phase and writes its row, in one step for every observer. edit may change the rest of the row; nil: nothing.
func (p *Pool) change(i *instance, to phase, edit func(*api.InstanceRow)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changeLocked(i, to, edit)
}

func (p *Pool) changeLocked(i *instance, to phase, edit func(*api.InstanceRow)) error {
	if err := canMove(i.id, i.phase(), to); err != nil {
		return err
	}
	row := proto.CloneOf(i.row)
	row.Phase = string(to)
	if edit != nil {
		edit(row)
	}
	if err := p.store.putInstance(row); err != nil {
		return err
	}
	i.row = row
	p.tellMove(i)
	if s := p.seeds[i.seed]; s != nil && to != phaseReady {
		s.ready = slices.DeleteFunc(s.ready, func(other *instance) bool { return other == i })
	}
	return nil
}

// rowOf is the row of an instance as it is now.
func (p *Pool) rowOf(i *instance) *api.InstanceRow {
	p.mu.Lock()
	defer p.mu.Unlock()
	return i.row
}

// rewrite changes the row of an instance that stays in its phase.
func (p *Pool) rewrite(i *instance, edit func(*api.InstanceRow)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	row := proto.CloneOf(i.row)
	edit(row)
	if err := p.store.putInstance(row); err != nil {
		return err
	}
	i.row = row
	return nil
}

// begin writes the row of an instance that does not exist yet. Whatever is made for it afterwards is found by this row if we die.
func (p *Pool) begin(seedID string, edit func(*api.InstanceRow)) (*instance, error) {
	id := newID()
	row := &api.InstanceRow{Instance: &api.Instance{Id: id, Seed: seedID}, Phase: string(phaseMaking)}
	if edit != nil {
		edit(row)
	}
	i := &instance{id: id, seed: seedID, row: row}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.store.putInstance(row); err != nil {
		return nil, err
	}
	p.instances[id] = i
	return i, nil
}
