package bake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/cyphar/filepath-securejoin/pathrs-lite"

	"github.com/sproutrun/sprout/seedpool/linux"
)

const (
	// askEvery is the pause between two questions: short against the boot of an app, long against the cost of asking.
	askEvery = 50 * time.Millisecond
	// answerWithin bounds one question: an app may take seconds for its first answer, but one that never answers is asked again.
	answerWithin = 15 * time.Second
	// livesFor is how long a woken app must live when it cannot be asked (see Probe).
	livesFor = time.Second
)

// prober asks one container.
type prober struct {
	pid   int
	netns *os.File
	ready Readiness
	// logs and exec answer the kinds of their name; nil where the container cannot be asked so.
	logs *logs
	exec func(ctx context.Context, words []string) error
}

// Probe waits until the container whose init is pid is ready in the sense of r, at most r.Timeout. It is for instances woken from an image:
// a log line has been written before the image was taken and exec needs a container of runc's, so for these two kinds the app only
// has to live for a second. It is also an error when the app ends.
func Probe(ctx context.Context, pid int, r Readiness) error {
	pidfd, err := linux.OpenPidfd(pid)
	if err != nil {
		return err
	}
	defer pidfd.Close()
	netns, err := linux.NSFile(pid, "net")
	if err != nil {
		return fmt.Errorf("open network namespace of process %d: %w", pid, err)
	}
	defer netns.Close()
	p := &prober{pid: pid, netns: netns, ready: r}
	watching, stop := context.WithCancel(ctx)
	gone := make(chan struct{})
	var watcher sync.WaitGroup
	watcher.Go(func() {
		if pidfd.Wait(watching) == nil {
			close(gone)
		}
	})
	defer watcher.Wait()
	defer stop()
	return whileAlive(ctx, gone, func() error { return errEnded }, func(ctx context.Context) error {
		if r.Kind == Log || r.Kind == Exec {
			return lives(ctx)
		}
		return p.wait(ctx, func(error) {})
	})
}

func lives(ctx context.Context) error {
	select {
	case <-time.After(livesFor):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// wait asks until the app is ready. Each refusal goes to refused.
func (p *prober) wait(ctx context.Context, refused func(error)) error {
	waiting, cancel := context.WithTimeout(ctx, p.ready.timeout())
	defer cancel()
	// An app tells nobody that it has begun to listen or has made a file: asking again until the deadline is all there is.
	again := time.NewTicker(askEvery)
	defer again.Stop()
	var matched chan struct{}
	if p.logs != nil {
		matched = p.logs.matched
	}
	last := errors.New("no answer")
	for {
		err := p.ask(waiting)
		if err == nil {
			return nil
		}
		// What the deadline itself has cut off explains nothing.
		if waiting.Err() == nil && !errors.Is(err, context.DeadlineExceeded) {
			last = err
			refused(err)
		}
		select {
		case <-again.C:
		case <-matched:
			return nil
		case <-waiting.Done():
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return p.timedOut(last)
		}
	}
}

func (p *prober) timedOut(last error) error {
	// The hint is a service: without the sockets it is less precise, the error stays the same.
	sockets, _ := tcpSockets(p.pid)
	return hinted{fmt.Errorf("%s is not ready after %s: %w", p.ready, p.ready.timeout(), last), timeoutHint(p.ready, sockets)}
}

// ask asks once.
func (p *prober) ask(ctx context.Context) error {
	asking, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	err := p.askKind(asking)
	if err != nil && asking.Err() != nil && ctx.Err() == nil {
		return fmt.Errorf("no answer within %s", answerWithin)
	}
	return err
}

func (p *prober) askKind(ctx context.Context) error {
	switch p.ready.Kind {
	case HTTP:
		return p.get(ctx)
	case TCP:
		conn, err := p.dial(ctx)
		if err != nil {
			return err
		}
		return conn.Close()
	case File:
		f, err := pathrs.OpenInRoot(fmt.Sprintf("/proc/%d/root", p.pid), p.ready.Target)
		if errors.Is(err, fs.ErrNotExist) {
			return errors.New("it does not exist")
		}
		if err != nil {
			return err
		}
		return f.Close()
	case Exec:
		words, err := SplitWords(p.ready.Target)
		if err != nil {
			return err
		}
		return p.exec(ctx, words)
	default:
		// The line that matches is noticed by wait.
		return errors.New("no line has matched yet")
	}
}

// get sends one GET and reads the whole answer. Both sides have closed the connection when it returns without error, but for what the app
// still has to do for that.
func (p *prober) get(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.ready.Target, nil)
	if err != nil {
		return err
	}
	request.Header.Set("User-Agent", "sprout-bake")
	// Connected here: the transport's own dialling can outlive the request, and the namespace's file.
	conn, err := p.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if response.StatusCode < 200 || response.StatusCode > 399 {
		return fmt.Errorf("answer %s", response.Status)
	}
	return nil
}

// dial connects inside the container's network namespace. The target is an IP address, so the connection is made by the one thread that has
// joined the namespace.
func (p *prober) dial(ctx context.Context) (conn net.Conn, err error) {
	err = linux.Enter([]linux.NS{{File: p.netns}}, func() error {
		conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", p.ready.address().String())
		return err
	})
	return conn, err
}

// address is where an HTTP or TCP readiness connects to.
func (r Readiness) address() netip.AddrPort {
	hostport := r.Target
	if u, err := url.Parse(r.Target); r.Kind == HTTP && err == nil {
		hostport = u.Host
	}
	address, err := netip.ParseAddrPort(hostport)
	if err != nil {
		return netip.AddrPort{}
	}
	return address
}
