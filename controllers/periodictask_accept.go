package controllers

import (
	"errors"
	"fmt"
	"time"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers/manifests"
	"github.com/weir-dev/weir/controllers/programming"
)

// taskRule refuses a task, or lets it pass to the next rule.
type taskRule func(task *v1alpha1.PeriodicTask) (reason, message string, refused bool)

// taskRules are what the API server could not refuse already.
var taskRules = []taskRule{
	timeZoneIsKnown,
	scheduleIsValid,
	argumentsFit,
	templateIsValid,
}

// acceptTask is the verdict of the first rule that refuses the task.
func acceptTask(task *v1alpha1.PeriodicTask) programming.Verdict {
	for _, refuses := range taskRules {
		if reason, message, refused := refuses(task); refused {
			return programming.Verdict{Reason: reason, Message: message}
		}
	}
	return programming.Verdict{Accepted: true, Reason: v1alpha1.ReasonAccepted, Message: "The task is valid and in force."}
}

func timeZoneIsKnown(task *v1alpha1.PeriodicTask) (reason, message string, refused bool) {
	if _, err := time.LoadLocation(task.Spec.TimeZone); err != nil {
		return v1alpha1.ReasonInvalidTimeZone,
			fmt.Sprintf("spec.timeZone %q is not known: %v. Use an IANA name, for example \"Asia/Kolkata\".", task.Spec.TimeZone, err), true
	}
	return "", "", false
}

func scheduleIsValid(task *v1alpha1.PeriodicTask) (reason, message string, refused bool) {
	if _, err := newTimetable(task.Spec.Schedule, task.Spec.TimeZone); err != nil {
		return v1alpha1.ReasonInvalidSchedule,
			fmt.Sprintf("spec.schedule %q is not valid: %v. Correct it, for example to \"0 * * * *\".", task.Spec.Schedule, err), true
	}
	return "", "", false
}

func argumentsFit(task *v1alpha1.PeriodicTask) (reason, message string, refused bool) {
	args, kwargs, err := manifests.Arguments(&task.Spec.Task)
	if err != nil {
		return v1alpha1.ReasonInvalidArguments, fmt.Sprintf("spec.task: %v. Correct them.", err), true
	}
	if size := len(args) + len(kwargs); size > manifests.MaxArgumentBytes {
		return v1alpha1.ReasonInvalidArguments,
			fmt.Sprintf("spec.task.args and spec.task.kwargs have %d bytes as JSON, at most %d are sent: store what is large elsewhere and pass its name.",
				size, manifests.MaxArgumentBytes), true
	}
	return "", "", false
}

func templateIsValid(task *v1alpha1.PeriodicTask) (reason, message string, refused bool) {
	if task.Spec.Worker == nil {
		return "", "", false
	}
	_, err := manifests.Deployment(task, manifests.Config{}, 0, "")
	if problem, is := errors.AsType[*manifests.TemplateError](err); is {
		return v1alpha1.ReasonInvalidTemplate,
			fmt.Sprintf("spec.worker.template is not a pod template: %s. Correct it; fields are those of a Deployment's spec.template.", clip(problem.Error())), true
	}
	return "", "", false
}
