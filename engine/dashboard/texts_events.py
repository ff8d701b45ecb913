"""Texts of the pages on events, in English and Portuguese."""

from __future__ import annotations

# key -> English, Portuguese
EVENTS: dict[str, tuple[str, str]] = {
    "events": ("Events", "Eventos"),
    "events_search": ("Id or e-mail", "Id ou e-mail"),
    "events_search_help": (
        "An id is found whole or by its first {least} characters; a person by their address.",
        "Um id é achado inteiro ou pelos primeiros {least} caracteres; uma pessoa, pelo endereço.",
    ),
    "events_from": ("From (UTC)", "De (UTC)"),
    "events_to": ("To (UTC)", "Até (UTC)"),
    "events_outcome": ("What became of it", "O que houve"),
    "events_caption": ("The newest first", "Os mais novos primeiro"),
    "events_none": ("Nothing is known yet.", "Nada é conhecido ainda."),
    "events_none_fits": ("Nothing that is known fits.", "Nada do que é conhecido corresponde."),
    "events_prefix": ("Ids that begin like this:", "Ids que começam assim:"),
    "events_off": (
        "What becomes of events is not kept here: it is switched off, or the store is DynamoDB. An event is found by "
        "its id while it waits, or is a dead letter.",
        "O destino dos eventos não é guardado aqui: está desligado, ou o armazenamento é DynamoDB. Um evento é achado "
        "pelo id enquanto espera, ou se foi rejeitado.",
    ),
    "events_since": ("Known since {when}.", "Conhecidos desde {when}."),
    "events_missing": (
        "{n} entries are missing here, for too much came at once or it could not be written. The events were handled "
        "all the same.",
        "Faltam {n} registros aqui: vieram demais de uma vez ou não puderam ser gravados. Os eventos foram tratados "
        "mesmo assim.",
    ),
    "events_trouble": (
        "It can't be written just now; deliveries go on:",
        "Não pode ser gravado agora; as entregas continuam:",
    ),
    "events_unread": (
        "What became of events can't be read. Nothing is known here but what waits in the store and its dead letters, "
        "which are found by the whole id; deliveries go on:",
        "O destino dos eventos não pode ser lido. Aqui só se conhece o que espera no armazenamento e o que foi "
        "rejeitado, e se acha pelo id inteiro; as entregas continuam:",
    ),
    "events_no_time": ("This is no time: {text}", "Isto não é um horário: {text}"),
    "event_title": ("Event", "Evento"),
    "event_of": ("Way of the event", "Caminho do evento"),
    "event_unknown": (
        "Nothing is known of an event with this id. It never came in, or what is known of it is too old.",
        "Nada é conhecido de um evento com este id. Nunca chegou, ou o que se sabia dele é antigo demais.",
    ),
    "event_unseen": (
        "Much waits: {n} waiting deliveries were not looked through.",
        "Muito espera: {n} entregas na fila não foram olhadas.",
    ),
    "event_unasked": (
        "Many lanes have dead letters: {n} of them were not asked. Give the client and the connector, too.",
        "Muitas filas têm eventos rejeitados: {n} delas não foram consultadas. Informe também o cliente e o conector.",
    ),
    "event_unknown_unread": (
        "Neither waits an event with this id, nor is it a dead letter; more can't be said.",
        "Nenhum evento com este id espera nem foi rejeitado; mais não se pode dizer.",
    ),
    "event_now": ("Where it is now", "Onde está agora"),
    "event_now_caption": ("Each action, and what became of it last", "Cada ação, e o que houve por último"),
    "event_attempts": ("Its attempts", "As tentativas"),
    "event_attempts_none": ("None is known.", "Nenhuma é conhecida."),
    "event_attempt": ("{action}: {outcome}", "{action}: {outcome}"),
    "event_waits_due": ("waits, next try {when}", "espera, próxima tentativa {when}"),
    "event_waits": ("waits", "espera"),
    "event_stands": ("waits, and its lane is paused", "espera, e a fila está pausada"),
    "event_waits_after": ("waits for another action", "espera outra ação"),
    "event_dead": ("dead letter {id}", "evento rejeitado {id}"),
    "event_tries": ("Try {n}", "Tentativa {n}"),
    "event_together": ("settled with {n} others", "concluída com outras {n}"),
    "event_stage": ("Stage", "Etapa"),
    "event_stages_caption": ("What was done, and when", "O que foi feito, e quando"),
    "stage_accepted": ("accepted", "aceita"),
    "stage_taken_up": ("taken up", "retirada da fila"),
    "stage_looked_up": ("looked up", "consultas feitas"),
    "stage_mapped": ("mapped", "mapeada"),
    "stage_settled": ("written down", "registrada"),
    "event_exchange": ("Request and answer", "Requisição e resposta"),
    "event_more": ("{n} more requests are not shown.", "Mais {n} requisições não são mostradas."),
    "event_no_exchange": (
        "Request and answer of this batch were not kept: they are of what went well while much is sent.",
        "Requisição e resposta deste lote não foram guardadas: do que deu certo, não se guarda tudo quando há muito.",
    ),
    "event_masked": (
        "Secrets and personal fields are masked; a batch names its other events, too.",
        "Segredos e campos pessoais estão mascarados; um lote traz também os outros eventos.",
    ),
    "event_body_gone": (
        "The event itself is kept only while it waits or is a dead letter.",
        "O evento em si só é guardado enquanto espera ou se foi rejeitado.",
    ),
    "to_events": ("Its events", "Seus eventos"),
    "to_event": ("Way of the event", "Caminho do evento"),
    "out_delivered": ("delivered", "entregue"),
    "out_rejected": ("rejected", "rejeitado"),
    "out_skipped": ("skipped", "pulado"),
    "out_retry": ("failed, tried again", "falhou, tentado de novo"),
    "out_throttle": ("held back by a limit", "contido por um limite"),
    "out_defer": ("put off", "adiado"),
    "out_pause": ("paused", "pausado"),
    "out_later": ("put off", "adiado"),
    "out_accepted": ("accepted", "aceito"),
    "out_unwanted": ("accepted, no action wanted it", "aceito, nenhuma ação o queria"),
    "out_unknown": (
        "not known: it does not wait any more, and how it ended was not written down",
        "desconhecido: não espera mais, e o fim não foi registrado",
    ),
    "event_wanted": ("Accepted {when}, for {actions}.", "Aceito {when}, para {actions}."),
    "event_unwanted": ("Accepted {when}; no action wanted it.", "Aceito {when}; nenhuma ação o queria."),
    "out_all": ("All", "Tudo"),
}
