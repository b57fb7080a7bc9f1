"""The commands with their help, and the commands of other packages."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Final

from cyclopts import App, Parameter

from headrace.cli.usage import UsageError

# name: (module and function, summary, examples). A command's module is imported when it is used.
_COMMANDS: Final = {
    "submit": (
        "submit:command",
        "Submit a job and print its id.",
        """
  headrace submit square_sum '{"data": [1, 2, 3]}' --watch
  headrace submit email @mail.json --queue mail --label team=ops --delay 10m
  echo '{"data": [4]}' | headrace submit square_sum - --wait""",
    ),
    "watch": (
        "watch:command",
        "Follow jobs live: the given jobs, or all jobs that match a filter.",
        """
  headrace watch 0199a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b
  headrace watch --queue mail --label team=ops
  headrace watch --state failed -o jsonl
  headrace watch --queue mail --since AQAAAAAAAAMh… -o jsonl""",
    ),
    "get": (
        "show:get",
        "Show a job with its payload, result and output.",
        """
  headrace get 0199a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b
  headrace get 0199a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b -o json | jq .result""",
    ),
    "output": (
        "show:output",
        "Print the output that a job's handler has emitted.",
        """
  headrace output 0199a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b
  headrace output 0199a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b -o jsonl | jq .output""",
    ),
    "logs": (
        "show:logs",
        "Print the lines that a job's handler has logged.",
        """
  headrace logs 0199a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b
  headrace logs 0199a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b --follow
  headrace logs 0199a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b -o jsonl | jq .message""",
    ),
    "list": (
        "show:list_jobs",
        "List jobs, newest first.",
        """
  headrace list --state failed --queue mail
  headrace list --filter 'labels.team = "ml" AND priority > 10' -o jsonl""",
    ),
    "cancel": (
        "act:cancel",
        "Cancel jobs.",
        """
  headrace cancel 0199a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b
  headrace cancel 0199a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b --reason 'wrong recipient'""",
    ),
    "retry": (
        "act:retry",
        "Requeue failed or cancelled jobs.",
        """
  headrace retry 0199a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b
  headrace list --state failed -o jsonl | jq -r .id | xargs headrace retry""",
    ),
    "events": (
        "show:events",
        "List the events of a job.",
        """
  headrace events 0199a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b""",
    ),
    "audit": (
        "audit:audit",
        "List the audit log: who changed keys, users and settings, and which calls were denied.",
        """
  headrace audit --since 1d
  headrace audit --denied
  headrace audit --principal billing --method AccessService/ -o jsonl""",
    ),
    "stats": (
        "show:stats",
        "Count jobs by state, queue and type.",
        """
  headrace stats
  headrace stats --watch
  headrace stats -o json | jq .states""",
    ),
    "top": (
        "top:top",
        "Show jobs, rates, queues and running jobs live on the full screen.",
        """
  headrace top""",
    ),
    "open": (
        "dashboard:open_page",
        "Open the dashboard, or the page of a job, in the browser.",
        """
  headrace open
  headrace open 0199a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b
  HEADRACE_WEB_URL=https://jobs.example.com headrace open --print""",
    ),
    "workers": (
        "monitor:workers",
        "List the workers with their slots and running jobs.",
        """
  headrace workers
  headrace workers -o jsonl | jq -r '.running_jobs[].job_id'""",
    ),
    "queues": (
        "monitor:queues",
        "List the queues with their jobs, and the slots that serve them.",
        """
  headrace queues
  headrace queues -o jsonl | jq 'select(.slots == 0) | .queue'""",
    ),
    "whoami": (
        "access:whoami",
        "Show the principal of the credential, with its tenant, role and rights.",
        """
  headrace whoami
  headrace whoami -o json | jq -r .tenant""",
    ),
    "watch-token": (
        "access:mint_watch_token",
        "Print a token that can only read some jobs, for a browser or a partner.",
        """
  headrace watch-token --label user=42
  headrace watch-token --job 0199a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b --lifetime 1h""",
    ),
    "login": (
        "login:login",
        "Log in with a password, from a prompt or stdin, and store the session in the context.",
        """
  headrace login ada
  headrace login ada --context prod --target gateway.example.com:50051 --tls""",
    ),
    "logout": (
        "login:logout",
        "End the session, and remove its tokens from the context.",
        """
  headrace logout
  headrace logout --context prod""",
    ),
    "password": (
        "login:change_password",
        "Change your password, from prompts or from two lines of stdin.",
        """
  headrace password""",
    ),
    "handlers": (
        "show:handlers",
        "List the job types of all live workers.",
        """
  headrace handlers
  headrace handlers -o json | jq '.[0].payload_schema'""",
    ),
}

_SUBSCRIPTION: Final = (
    "Durable watches: the server stores your position and resends unacknowledged events.",
    """
  headrace subscription create billing --queue invoices --state succeeded
  headrace subscription watch billing
  headrace subscription watch billing -o jsonl | ./handler
  headrace subscription list""",
)
_SUBSCRIPTION_COMMANDS: Final = {
    "create": (
        "subscriptions:create",
        "Create a subscription; repeating the command changes nothing.",
        """
  headrace subscription create billing --queue invoices --state succeeded
  headrace subscription create audit
  headrace subscription create late --label team=ml --since AQAAAAAAAAMh…""",
    ),
    "list": (
        "subscriptions:list_all",
        "List subscriptions with their consumers and lag.",
        """
  headrace subscription list
  headrace subscription list -o jsonl | jq 'select(.lag > 60)'""",
    ),
    "get": (
        "subscriptions:get",
        "Show a subscription.",
        """
  headrace subscription get billing""",
    ),
    "delete": (
        "subscriptions:delete",
        "Delete a subscription; its consumer receives an error.",
        """
  headrace subscription delete billing""",
    ),
    "watch": (
        "subscriptions:watch",
        "Receive events of a subscription, and acknowledge each after its line is written.",
        """
  headrace subscription watch billing
  headrace subscription watch billing -o jsonl | ./handler
  headrace subscription watch billing --consumer "$HOSTNAME" -o jsonl >> log
  headrace subscription watch billing --no-ack""",
    ),
    "ack": (
        "subscriptions:ack",
        "Acknowledge all events up to a cursor, for example from the output of watch --no-ack.",
        """
  headrace subscription ack billing AQEAAAAAAAMh…""",
    ),
}

_KEYS: Final = (
    "Manage the API keys of the tenant.",
    """
  headrace keys create billing --role operator --scope queue:invoices > billing.key
  headrace keys list
  headrace keys revoke k3vbq6zq5t2m7wjx4n2a""",
)
_KEYS_COMMANDS: Final = {
    "create": (
        "access:create_key",
        "Create an API key and print it; it cannot be shown again.",
        """
  headrace keys create billing --role operator --scope queue:invoices > billing.key
  headrace keys create dashboard --expires 90d
  headrace keys create auditor --scope payload:read --scope label:team=ml""",
    ),
    "list": (
        "access:list_keys",
        "List API keys, revoked and expired ones included.",
        """
  headrace keys list
  headrace keys list -o jsonl | jq 'select(.last_use_time == null)'""",
    ),
    "revoke": (
        "access:revoke_keys",
        "Revoke API keys: their calls and streams end within five seconds.",
        """
  headrace keys revoke k3vbq6zq5t2m7wjx4n2a""",
    ),
}

_CERTIFICATES: Final = (
    "Manage the principals of client certificates.",
    """
  headrace certificates bind uri:spiffe://example.com/billing billing --role operator
  headrace certificates list""",
)
_CERTIFICATES_COMMANDS: Final = {
    "bind": (
        "certificates:bind",
        "Bind a name in client certificates to a principal.",
        """
  headrace certificates bind uri:spiffe://example.com/billing billing --role operator
  headrace certificates bind dns:billing.example.com billing --scope queue:invoices""",
    ),
    "list": (
        "certificates:list_all",
        "List certificate bindings.",
        """
  headrace certificates list""",
    ),
    "unbind": (
        "certificates:unbind",
        "Delete a binding: the calls and streams of its certificates end within five seconds.",
        """
  headrace certificates unbind dns:billing.example.com""",
    ),
}

_TENANTS: Final = (
    "Manage tenants, their quotas and their usage.",
    """
  headrace tenants create acme --ceiling waiting_jobs=100000
  headrace tenants limit acme --quota submits_per_second=50
  headrace tenants usage acme""",
)
_TENANTS_COMMANDS: Final = {
    "create": (
        "tenants:create",
        "Create a tenant.",
        """
  headrace tenants create acme
  headrace tenants create acme --ceiling waiting_jobs=100000 --ceiling open_streams=500""",
    ),
    "list": (
        "tenants:list_all",
        "List tenants with their states.",
        """
  headrace tenants list
  headrace tenants list -o jsonl | jq 'select(.state == "suspended")'""",
    ),
    "get": (
        "tenants:get",
        "Show a tenant with its quotas, and the progress of its deletion.",
        """
  headrace tenants get
  headrace tenants get acme""",
    ),
    "suspend": (
        "tenants:suspend",
        "Suspend a tenant: its calls are rejected, and none of its jobs starts.",
        """
  headrace tenants suspend acme""",
    ),
    "resume": (
        "tenants:resume",
        "Resume a suspended tenant.",
        """
  headrace tenants resume acme""",
    ),
    "delete": (
        "tenants:delete",
        "Delete a tenant with all its jobs; a deletion cannot be stopped.",
        """
  headrace tenants delete acme --yes""",
    ),
    "limit": (
        "tenants:limit",
        "Set or remove quotas of a tenant; other quotas do not change.",
        """
  headrace tenants limit --quota waiting_jobs=5000
  headrace tenants limit acme --ceiling open_streams=500 --quota jobs_per_day=none""",
    ),
    "usage": (
        "tenants:usage",
        "Show the usage of a tenant and its limits.",
        """
  headrace tenants usage
  headrace tenants usage acme -o json | jq .waiting_jobs""",
    ),
}
_USERS: Final = (
    "Manage the users of the tenant: people who log in with a password.",
    """
  headrace users create ada --role operator
  headrace users update ada --disable
  headrace users list""",
)
_USERS_COMMANDS: Final = {
    "create": (
        "users:create",
        "Create a user and print its random password.",
        """
  headrace users create ada --role operator
  headrace users create grace --role admin --scope payload:read --choose-password""",
    ),
    "list": (
        "users:list_all",
        "List users.",
        """
  headrace users list
  headrace users list -o jsonl | jq 'select(.disabled)'""",
    ),
    "update": (
        "users:update",
        "Change the role or the scope of a user, or disable the user.",
        """
  headrace users update ada --role viewer
  headrace users update ada --disable""",
    ),
    "reset-password": (
        "users:reset_password",
        "Set a random password and print it; the sessions of the user end.",
        """
  headrace users reset-password ada""",
    ),
    "delete": (
        "users:delete",
        "Delete a user and end its sessions.",
        """
  headrace users delete ada""",
    ),
}

_CONTEXT: Final = (
    "Contexts: named gateways with their credentials, in ~/.config/headrace/config.toml.",
    """
  headrace context add prod --target gateway.example.com:50051 --tls --api-key-file -
  headrace context use prod
  headrace context list""",
)
_CONTEXT_COMMANDS: Final = {
    "add": (
        "contexts:add",
        "Add a context with the gateway and the TLS options of the global options.",
        """
  headrace context add local --target 127.0.0.1:50051
  headrace context add prod --target gateway.example.com:50051 --tls --api-key-file -""",
    ),
    "list": (
        "contexts:list_all",
        "List contexts, without their secrets.",
        """
  headrace context list""",
    ),
    "use": (
        "contexts:use",
        "Make a context the current one.",
        """
  headrace context use prod""",
    ),
    "remove": (
        "contexts:remove",
        "Remove a context with its credential, without ending its session.",
        """
  headrace context remove prod""",
    ),
}

_GROUPS: Final = {
    "subscription": (_SUBSCRIPTION, _SUBSCRIPTION_COMMANDS),
    "keys": (_KEYS, _KEYS_COMMANDS),
    "certificates": (_CERTIFICATES, _CERTIFICATES_COMMANDS),
    "users": (_USERS, _USERS_COMMANDS),
    "tenants": (_TENANTS, _TENANTS_COMMANDS),
    "context": (_CONTEXT, _CONTEXT_COMMANDS),
}

_ENTRY_POINT_GROUP: Final = "headrace.commands"
# Commands of packages that might be missing: the package and the summary.
_OPTIONAL_COMMANDS: Final = {
    "admin": ("headrace-ops", "Create the first admin, with access to the database."),
    "up": ("headrace-standalone", "Start the whole platform on this machine."),
    "doctor": ("headrace-ops", "Check the servers and services, and print advice."),
    "verify": ("headrace-ops", "Audit the database against the invariants."),
}


def add_commands(app: App, arguments: Sequence[str]) -> None:
    """Add the commands of this package and of the entry-point group `headrace.commands`.

    If a command of another package cannot be imported, all other commands still work.

    Args:
        app: the application; receives the commands.
        arguments: the command line.

    Raises:
        UsageError: the command in `arguments` cannot be imported.
    """
    _add_own_commands(app, _COMMANDS)
    for name, ((summary, examples), commands) in _GROUPS.items():
        group = App(name=name, help=summary, help_epilogue=f"Examples:{examples}")
        _add_own_commands(group, commands)
        app.command(group)

    installed = {point.name: point for point in entry_points(group=_ENTRY_POINT_GROUP)}
    for name, point in sorted(installed.items()):
        _add_installed_command(app, point, used=name in arguments)
    for name, (package, summary) in _OPTIONAL_COMMANDS.items():
        if name not in installed:
            _add_missing_command(app, name, package, summary)


def _add_own_commands(app: App, commands: dict[str, tuple[str, str, str]]) -> None:
    for name, (place, summary, examples) in commands.items():
        app.command(
            f"headrace.cli.{place}",
            name=name,
            help=summary,
            help_epilogue=f"Examples:{examples}",
        )


def _add_installed_command(app: App, point: EntryPoint, *, used: bool) -> None:
    try:
        # Without the empty epilogue, the command's help would end with the application's examples.
        command = point.load()
        if isinstance(command, App):
            app.command(command)
        else:
            app.command(command, name=point.name, help_epilogue="")
    except Exception as error:
        if used:
            raise UsageError(
                f"cannot load the command {point.name} from {point.value}: {error}"
            ) from error


def _add_missing_command(app: App, name: str, package: str, summary: str) -> None:
    def report_missing_package(
        *_: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    ) -> None:
        raise UsageError(
            f"the command {name} is part of the package {package}; in a checkout of Headrace, "
            "`make wheels` builds it and `pip install dist/*.whl` installs it"
        )

    app.command(report_missing_package, name=name, help=f"{summary} Needs {package}.")
