// Package child runs processes for tests, which on Linux do not outlive the
// process that started them, however that ends.
package child

import (
	"os/exec"
	"runtime"
	"syscall"
)

// Process is a running child.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// Start runs the command. The goroutine keeps its thread until the child ended:
// the kernel sends the parent-death signal when the *thread* that forked dies,
// and Go may end idle threads.
func Start(cmd *exec.Cmd) (*Process, error) {
	p := &Process{cmd: cmd, done: make(chan struct{})}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	dieWithParent(cmd.SysProcAttr)
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// Pid is its number.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err says how it ended, when Done is closed; nil is exit code 0.
func (p *Process) Err() error { return p.err }

// Signal sends a signal. An error says that the process has ended.
func (p *Process) Signal(signal syscall.Signal) error { return p.cmd.Process.Signal(signal) }

// Kill ends the process, also a stopped one, and with Setpgid its children too;
// it returns when the process is gone.
func (p *Process) Kill() {
	if p.cmd.SysProcAttr.Setpgid {
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // an error says that all ended already
	}
	_ = p.cmd.Process.Kill() // likewise
	<-p.done
}
