// Command app is the application in the cluster suite's pods: a server that
// says what reached it, and a client that counts what it got. It knows nothing
// of Weir.
//
//	app serve [-port 8080] ...    answers requests; /die stops answering; a small model at /v1
//	app call  [-n 1] ... URL      sends requests and prints what came back as JSON
//	app load  [-c 4] ... URL      sends requests until its input ends and prints which were lost
//	app client                    asks what its input says, as the programs of test/e2e/clients do
//	app idle                      waits for the end of its pod
//	app kill NAME                 kills the process whose command has NAME in it
package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	if len(os.Args) < 2 {
		fail(fmt.Errorf("want serve, call, load, client, idle or kill"))
	}
	var err error
	switch arguments := os.Args[2:]; os.Args[1] {
	case "serve":
		err = serve(arguments)
	case "call":
		err = call(arguments)
	case "load":
		err = load(arguments)
	case "client":
		err = client()
	case "kill":
		err = kill(arguments)
	case "idle":
		err = idle()
	default:
		err = fmt.Errorf("unknown command %q", os.Args[1])
	}
	if err != nil {
		fail(err)
	}
}

// idle waits for the end of the pod.
func idle() error {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT)
	<-ended
	return nil
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "app:", err)
	os.Exit(1)
}
