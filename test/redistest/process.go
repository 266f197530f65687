package redistest

import (
	"os/exec"
	"runtime"
)

// process is a child; err is set when done is closed.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// startProcess runs redis-server. The goroutine keeps its thread until the
// child ended: the kernel sends the parent-death signal when the *thread* that
// forked dies, and Go may end idle threads.
func startProcess(args []string) (*process, error) {
	p := &process{cmd: exec.Command("redis-server", args...), done: make(chan struct{})}
	p.cmd.SysProcAttr = dieWithParent()
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// kill ends the process, also a stopped one, and waits until it is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // an error says that it ended already
	<-p.done
}
