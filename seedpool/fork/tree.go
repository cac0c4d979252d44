package fork

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// Member is the place of a process in a tree: an init and its children.
type Member struct {
	// Leads: it has a session of its own. A child of another's cannot be put into it: then all are in the template's, which has no number in the clone, and only their
	// process groups are made as they were.
	Leads bool
	// Helper is a number that no thread of the tree has: whoever makes a child has it for a moment.
	Helper int
	// Lent are the descriptors, from the first up to the second, that the init has only for its children, until it runs.
	Lent [2]int
	// Memory are the descriptors among them, by the inode of shared memory.
	Memory map[uint64]int
}

// name is for people.
func (p *Process) name() string {
	return fmt.Sprintf("process %d (%s)", p.Threads[0].Tid, p.Threads[0].Comm)
}

// judgeTree refuses relations that clones could not have, and gives the processes of a tree what of their places is to be decided.
func judgeTree(processes []*Process) (list []Refusal) {
	first := processes[0]
	if tid := first.Threads[0].Tid; tid != 1 {
		list = append(list, Refusal{
			CodeNotInit, fmt.Sprintf("the process is number %d in its pid namespace, a clone would be number 1", tid), "run it as the first process of a pid namespace",
		})
	}
	list = append(list, judgeChildren(processes)...)
	if len(processes) == 1 {
		return list
	}
	if first.Group != 1 || first.Session != 1 {
		list = append(list, Refusal{CodeGroup, fmt.Sprintf("%s is of group %d in session %d", first.name(), first.Group, first.Session), ""})
	}
	first.Member.Leads = true
	taken := map[int]bool{}
	for _, p := range processes {
		for _, t := range p.Threads {
			taken[t.Tid] = true
		}
	}
	for _, p := range processes[1:] {
		tid := p.Threads[0].Tid
		switch {
		case p.Session == tid && p.Group == tid:
			p.Member.Leads = true
		case p.Session == 1 && (p.Group == 1 || p.Group == tid):
			first.Member.Leads = false
		default:
			list = append(list, Refusal{CodeGroup, fmt.Sprintf("%s is of group %d in session %d", p.name(), p.Group, p.Session), ""})
		}
		p.Member.Helper = 2
		for taken[p.Member.Helper] {
			p.Member.Helper++
		}
		taken[p.Member.Helper] = true
	}
	return list
}

// judgeChildren refuses processes that are not of the tree, or deeper in it.
func judgeChildren(processes []*Process) (list []Refusal) {
	var known []int
	for _, p := range processes[1:] {
		known = append(known, p.PID)
		if !slices.Contains(processes[0].Children, p.PID) {
			list = append(list, Refusal{CodeChildren, p.name() + " is no child of the first process", ""})
		}
		if len(p.Children) > 0 {
			list = append(list, Refusal{CodeChildren, fmt.Sprintf("%s is a child of the first process and has %d of its own", p.name(), len(p.Children)), deepFix})
		}
		if p.Reaper {
			list = append(list, Refusal{CodeChildren, p.name() + " is a reaper of orphans", ""})
		}
	}
	var others []string
	for _, child := range processes[0].Children {
		if !slices.Contains(known, child) {
			others = append(others, fmt.Sprint(child))
		}
	}
	if len(others) > 0 {
		list = append(list, Refusal{CodeChildren, "the process has children: " + strings.Join(others, " "), ""})
	}
	return list
}

const deepFix = "start the server itself as the container's first process, not by a shell or an init"

// addChildren makes the other processes of a clone whose first one waits at its gate: each takes what it shares from that one.
func (t *Template) addChildren(ctx context.Context, c *Clone, s Sandbox, f Files) error {
	if len(t.children) == 0 {
		return nil
	}
	began := time.Now()
	f.Root, f.init = nil, c.process.File()
	errs := make([]error, len(t.children))
	var all sync.WaitGroup
	for n, z := range t.children {
		child := new(Clone)
		c.children = append(c.children, child)
		all.Go(func() { _, errs[n] = z.make(ctx, child, t.number, s, t.files(f)) })
	}
	all.Wait()
	c.Phases = append(c.Phases, Phase{"children", time.Since(began)})
	return errors.Join(errs...)
}
